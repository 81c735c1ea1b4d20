"""What tests of several trainings share."""

from collections.abc import Callable, Sequence

import pytest

from synth3d.training import TrainRequest


@pytest.fixture(scope="module")
def small_requests(phantom_cohort, tmp_path_factory) -> Callable[..., Callable[..., TrainRequest]]:
    """(recipe, settings) → (name, more settings, fields) → a request of four steps on phantoms."""

    def of(recipe: str, small: Sequence[str]) -> Callable[..., TrainRequest]:
        work = tmp_path_factory.mktemp("work")

        def make(name: str, assign: Sequence[str] = (), **fields) -> TrainRequest:
            return TrainRequest(
                data=phantom_cohort, recipe=recipe, assign=(*small, *assign), threads=1,
                device="cpu", work=work, name=name, **{"steps": 4} | fields,
            )  # fmt: skip

        return make

    return of
