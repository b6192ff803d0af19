"""The status page: pure views, HTTP, the stream."""
