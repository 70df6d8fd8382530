"""Scoring: log-probabilities of answers, multiple choice, generation, exact match."""

from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.scoring.logprobs import answer_logprobs

__all__ = ["Evaluation", "answer_logprobs", "evaluate", "generate_greedily"]
