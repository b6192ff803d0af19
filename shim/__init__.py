"""The shim: a mutating webhook that turns an AdmissionReview into one Allocate call and its answer into a JSONPatch.

It keeps no state, so any number of replicas may run. The way of one review:

`webhook` (HTTP; `limiter` says whether there is room) → `admission` → `review` (`pods` reads the Pod, `annotations`
what its author says, `allocation_request` what it asks for) → `client` (the allocator) → `patch` (`ports`, `findings`)
→ `admission` (the answer) → `webhook`. Afterwards `reporting` tells the Pod's owner what was warned of.
"""

from hostport.tls import require_tls13

require_tls13()
