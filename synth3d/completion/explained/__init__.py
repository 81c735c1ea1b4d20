"""What explains a case or a run, written beside what it made."""

from synth3d.completion.explained.beside import (
    ABOUT_MAPS,
    forget_explanations,
    map_facts,
    maps_of_made,
    write_routing,
)
from synth3d.completion.explained.contributions import (
    contributions_in_the_way,
    write_contributions,
)
from synth3d.completion.explained.errors import rate_explanations, tell_errors

__all__ = [
    "ABOUT_MAPS",
    "contributions_in_the_way",
    "forget_explanations",
    "map_facts",
    "maps_of_made",
    "rate_explanations",
    "tell_errors",
    "write_contributions",
    "write_routing",
]
