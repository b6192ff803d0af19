"""The command line: `hostport`, and by the same program `kubectl hostport`.

Rules:

* What a command prints on stdout is its answer and nothing else; remarks go to stderr. Colours only on a terminal.
* An error is one line that says what to do. Exit codes are those of `exits`, and stay.
* What is decided about what was found (`explaining`, `checks`) is pure; commands ask and print.
"""

from hostport.tls import require_tls13

require_tls13()
