"""What an image may be whose name is not understood: a guess, for a person to confirm."""

from synth3d.cohort.naming.vocabulary import Modality, words_of

FLAIR = {"flair", "tirm", "darkfluid", "t2flair"}
T1 = {"t1", "t1w", "mprage", "mpr", "bravo", "mp2rage", "spgr"}
T2 = {"t2", "t2w"}
AGENT = {"km", "gd", "gad", "gado", "post", "contrast", "ce", "mdc"}
WITHOUT = {"pre", "ohne", "without", "no", "non", "native", "nativ"}
OTHERS = {
    *("adc", "dwi", "dti", "trace", "swi", "perf", "perfusion", "dsc", "asl", "map", "star"),
    *("sub", "subtraction", "localizer", "localiser", "scout", "loc", "mask", "seg"),
}
"""Words of images that are none of the four, whatever else they are called."""


def guess(stem: str) -> Modality | None:
    """The sequence that words in ``stem``, a file's name or a series' description, speak of.

    None where they speak of none, or of several.
    """
    words = {*words_of(stem)}
    if words & OTHERS:
        return None
    if words & FLAIR or {"dark", "fluid"} <= words:
        return None if words & (T1 | AGENT) else "t2f"
    if bool(words & T1) == bool(words & T2):
        return None
    agent = bool(words & AGENT) or "+c" in stem.lower()
    if words & T2:
        return None if agent else "t2w"
    if words & WITHOUT:
        return None if agent else "t1n"
    return "t1c" if agent else "t1n"
