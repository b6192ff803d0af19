"""The shim: a mutating webhook that turns an AdmissionReview into one Allocate call and its answer into a JSONPatch.

It keeps no state, so any number of replicas may run. Follow one review with your finger:
web → admission → review → client → patch → answers → web.
"""

from hostport.tls import require_tls13

require_tls13()
