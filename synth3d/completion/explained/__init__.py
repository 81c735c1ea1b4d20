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

__all__ = [
    "ABOUT_MAPS",
    "contributions_in_the_way",
    "forget_explanations",
    "map_facts",
    "maps_of_made",
    "write_contributions",
    "write_routing",
]
