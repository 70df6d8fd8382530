"""Tasks: the paper's seven, those of the embedded model, and a user's own files."""

from lofit_lens.tasks.choices import scored_by
from lofit_lens.tasks.clutrr import clutrr
from lofit_lens.tasks.embedded import embedded
from lofit_lens.tasks.exact_match import ExactMatch
from lofit_lens.tasks.from_file import from_file, from_rows
from lofit_lens.tasks.kinds import SCORINGS
from lofit_lens.tasks.label_f1 import LabelF1
from lofit_lens.tasks.llm_adapters import arc_challenge, boolq, siqa, svamp
from lofit_lens.tasks.load import load_tasks, reload_task
from lofit_lens.tasks.mquake import mquake
from lofit_lens.tasks.multiple_choice import MultipleChoice
from lofit_lens.tasks.references import References
from lofit_lens.tasks.scoring import Scoring
from lofit_lens.tasks.task import Example, Task
from lofit_lens.tasks.truthfulqa import truthfulqa

__all__ = [
    "SCORINGS",
    "ExactMatch",
    "Example",
    "LabelF1",
    "MultipleChoice",
    "References",
    "Scoring",
    "Task",
    "arc_challenge",
    "boolq",
    "clutrr",
    "embedded",
    "from_file",
    "from_rows",
    "load_tasks",
    "mquake",
    "reload_task",
    "scored_by",
    "siqa",
    "svamp",
    "truthfulqa",
]
