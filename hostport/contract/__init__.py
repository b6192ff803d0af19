"""What both programs and their callers have agreed on, each thing in one place.

| module | what it says |
|---|---|
| `reasons` | why a request is refused, with its gRPC code |
| `notices` | what an admitted Pod is warned of |
| `mistakes` | a reason or a warning with the sentence that belongs to one request |
| `status` | mistakes as a gRPC status, and back |
| `limits` | how large one request may be |
| `policies` | the names of the policies, and what callers have to know of each |
| `defaults` | what is meant where a caller says nothing |
| `annotations` | the annotations of a Pod: who writes each, what it may say, what is meant without it |
| `pages` | docs/contract.md and the tables of docs/annotations.md, made from all this |

Rule: this package imports nothing of the project's, and the allocator's core may import all but `status` and `pages`.
"""

from hostport.contract.mistakes import Mistake, PodWarning
from hostport.contract.notices import Notice
from hostport.contract.reasons import Reason
from hostport.contract.words import DOMAIN, Code

__all__ = ["DOMAIN", "Code", "Mistake", "Notice", "PodWarning", "Reason"]
