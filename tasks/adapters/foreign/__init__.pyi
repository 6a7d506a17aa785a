from . import (
    artefact as artefact,
    child as child,
    class_order as class_order,
    confine as confine,
    intake as intake,
    native as native,
    sandbox as sandbox,
    scorer as scorer,
)
from .intake import take_in as take_in
from .scorer import ForeignScorer as ForeignScorer
