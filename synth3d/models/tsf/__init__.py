"""TSF-Seq2Seq: one encoder and one decoder for all sequences, and a fusion that a code steers."""
