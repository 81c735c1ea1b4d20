"""Names in a dataset.json decide what painted integers mean, or nothing is decided."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth3d.cohort.labels.names import dataset_scheme, painted_codes
from synth3d.errors import InputError

WHERE = Path("model/dataset.json")


def codes(labels, order=None):
    described = {"labels": {"background": 0, **labels}}
    return painted_codes(described | ({"regions_class_order": order} if order else {}), WHERE)


@given(order=st.permutations([1, 2, 3, 4]))
def test_the_order_of_painting_decides_whatever_the_sets_say(order):
    """The sets tell the training what a region is; the order tells what is painted for it."""
    found = codes({"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, list(order[:3]))
    whole, core, enhancing = order[:3]
    assert found.scheme.tissues == {whole: "oedema", core: "necrosis", enhancing: "enhancing"}
    assert found.to_brats_2023 == {0: 0, whole: 2, core: 1, enhancing: 3}
    assert found.regions


@pytest.mark.parametrize(
    ("labels", "order", "expected"),
    [
        ({"NCR": 1, "ED": 2, "ET": 3}, None, {1: 1, 2: 2, 3: 3}),
        ({"necrosis": 1, "edema": 2, "enhancing tumor": 4}, None, {1: 1, 2: 2, 4: 3}),
        ({"edema": 1, "non-enhancing tumor": 2, "enhancing": 3}, None, {1: 2, 2: 1, 3: 3}),
        ({"NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}, None, {1: 1, 2: 2, 3: 3, 4: 0}),
        ({"NCR": 1, "ED": 2, "ET": 3, "ignore": 4}, None, {1: 1, 2: 2, 3: 3}),
        ({"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
         [1, 2, 3], {1: 2, 2: 1, 3: 3}),
        ({"WT": [1, 2, 4], "TC": [1, 4], "ET": [4]}, [2, 1, 4], {1: 1, 2: 2, 4: 3}),
        ({"WT": [1, 2, 3], "TC": [1, 3], "ET": [3], "RC": [4]}, [2, 1, 3, 4],
         {1: 1, 2: 2, 3: 3, 4: 0}),
        ({"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, None, {1: 1, 2: 2, 3: 3}),
        ({"ET": 1, "NET": 2, "CC": 3, "ED": 4}, None, {1: 3, 2: 1, 3: 1, 4: 2}),
        ({"NCR": 1, "NET": 4, "Oedema": 2, "enhancing tumour": 3}, None, {1: 1, 2: 2, 3: 3, 4: 1}),
    ],
)  # fmt: skip
def test_schemes_come_back_as_brats_2023(labels, order, expected):
    assert codes(labels, order).to_brats_2023 == {0: 0} | expected
    # Painted as the sets have it, label files and predictions hold the same.
    scheme = dataset_scheme({"labels": {"background": 0, **labels}}, WHERE)
    assert {n: codes(labels, order).to_brats_2023[n] for n in expected} == {
        n: {"necrosis": 1, "oedema": 2, "enhancing": 3, "cavity": 0, "cyst": 1}[scheme.tissues[n]]
        for n in expected
    }


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"WT": [1, 2, 3, 4], "TC": [1, 2, 3], "ET": [1]}, "1 enhancing, 2 necrosis, 3 necrosis, "
         "4 oedema"),
        ({"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
         "1 oedema, 2 necrosis, 3 enhancing"),
        ({"background": 0, "ignore": 4}, None),
    ],
)  # fmt: skip
def test_label_files_hold_what_the_sets_say(labels, expected):
    """Whatever would be painted: the order of painting says nothing of them."""
    found = dataset_scheme({"labels": labels, "regions_class_order": [9, 8, 7]}, WHERE)
    assert (found and found.text) == expected


@pytest.mark.parametrize(
    "labels",
    [
        {"1": 1, "2": 2, "3": 3},
        {"label 1": 1, "label 2": 2, "label 3": 3},
        {"tumour": 1},
        {"NCR": 1, "ED": 2, "ET": 2},
        {"NCR": 0, "ED": 1, "ET": 2},
        {"NCR": None, "ED": 1, "ET": 2},
        {"WT": [1, 2], "TC": [1], "ET": [3]},
    ],
)
def test_names_that_say_too_little_are_refused(labels):
    with pytest.raises(InputError, match="what the integers mean cannot be told"):
        codes(labels)


def test_an_order_that_hides_or_misses_a_region_is_refused():
    with pytest.raises(InputError, match="would paint tc over et, which would vanish"):
        codes({"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]}, [3, 1, 2])
    with pytest.raises(InputError, match="2 entries for the 3 regions wt, tc, et"):
        codes({"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, [2, 1])
    with pytest.raises(InputError, match="cannot be told"):
        codes({"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, [2, 2, 3])


def test_names_that_are_no_tumour_are_kept_apart():
    found = codes({"NCR": 1, "ED": 2, "ET": 3, "vessel": 4})
    assert found.others == {"vessel": 4}
    assert codes({"NCR": 1, "ED": 2, "ET": 3}).others == {}


@pytest.mark.parametrize("dataset", [None, [], {}, {"labels": [1, 2]}])
def test_what_is_no_description_is_refused(dataset):
    with pytest.raises(InputError, match=r"not nnU-Net's dataset\.json"):
        painted_codes(dataset, WHERE)
