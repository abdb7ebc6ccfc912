"""Which pictures serve as references where none are connected: asked alike by all that measure."""

from ..references import OWN, STAND_INS
from .kinds import Choice

STAND_IN = Choice(
    "stand_in",
    default=OWN,
    options=STAND_INS,
    tooltip=(
        "Serves where no pictures are given. own samples: the model's own, finely stepped, which show the "
        "error of few steps only. shipped pictures: 32 mixed photographs, which also show whatever the model "
        "draws otherwise; above 256 pixels they are enlarged and mislead. Pictures of your own are better."
    ),
)
