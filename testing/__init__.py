"""What tests and benchmarks share: no test, and no part of the product."""
