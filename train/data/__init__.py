"""Training and evaluation data of the MSA model; see README.md."""
from .banks import DEFAULT_MIX, filler, grow, iter_banks, make_bank, make_sample
from .natural import Natural
from .schema import (KINDS, NOT_IN_MEMORY, Bank, Question, approx_tokens, exact_match, f1, normalize,
                     parts_recall)
from .evalsets import EVAL_SETS, NIAH_FORMS, eval_set, niah, prose
