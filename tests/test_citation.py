"""CITATION.cff: what GitHub and Zenodo read, by the rules of the Citation File Format 1.2.0."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

import synth3d

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
BIBTEX = (ROOT / "seg_eval" / "report" / "words" / "references.bib").read_text("utf-8")
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 1}
ENTITY = {"type": "object", "required": ["name"], "additionalProperties": False,
          "properties": {"name": TEXT}}  # fmt: skip
PERSON = {"type": "object", "required": ["family-names"], "additionalProperties": False,
          "properties": {"family-names": TEXT, "given-names": TEXT}}  # fmt: skip
COMMON = {
    "title": TEXT,
    "authors": {"type": "array", "minItems": 1, "items": {"anyOf": [PERSON, ENTITY]}},
    "doi": {"type": "string", "pattern": r"^10\.\d{4,9}(\.\d+)?/\S+$"},
}
IDENTIFIER = {
    "type": "object",
    "required": ["type", "value"],
    "additionalProperties": False,
    "properties": {"type": {"enum": ["doi", "url", "swh", "other"]}, "value": TEXT},
}
REFERENCE = {
    "type": "object",
    "required": ["authors", "title", "type"],
    "additionalProperties": False,
    "properties": COMMON | {
        "type": {"enum": ["article", "conference-paper"]}, "notes": TEXT, "year": COUNT,
        "journal": TEXT, "volume": COUNT, "issue": {"type": ["integer", "string"]},
        "start": COUNT, "end": COUNT, "conference": ENTITY,
        "identifiers": {"type": "array", "items": IDENTIFIER},
    },
}  # fmt: skip
SCHEMA = {
    "type": "object",
    "required": ["authors", "cff-version", "message", "title"],
    "additionalProperties": False,
    "properties": COMMON | {
        "cff-version": {"const": "1.2.0"}, "message": TEXT, "type": {"enum": ["software"]},
        "version": TEXT, "license": TEXT, "keywords": {"type": "array", "items": TEXT},
        "references": {"type": "array", "items": REFERENCE},
    },
}  # fmt: skip
"""The keys that we use, as the format's own schema has them; others are refused."""


def test_it_is_of_the_format_and_of_this_version():
    jsonschema.validate(CITATION, SCHEMA)
    assert CITATION["version"] == synth3d.__version__
    assert CITATION["license"] in (ROOT / "setup.py").read_text("utf-8")


@pytest.mark.parametrize("key", ["isensee2021nnunet", "menze2015brats", "song2024aginet"])
def test_a_paper_is_cited_here_as_in_a_report(key):
    (entry,) = [each for each in BIBTEX.split("\n\n") if f"{{{key}," in each]
    number = re.search(r"(?:doi|eprint)\s*=\s*\{([^}]+)\}", entry)[1]
    (own,) = [each for each in CITATION["references"] if number in str(each)]
    assert own["title"] in re.sub(r"\s+", " ", re.sub("[{}]", "", entry))
    assert str(own["year"]) in entry
    assert all(f"{one['family-names']}," in entry for one in own["authors"] if "name" not in one)
