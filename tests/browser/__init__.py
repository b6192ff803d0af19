"""The status page in the Chromium of the distribution: `make browser`. Without one everything here is skipped."""
