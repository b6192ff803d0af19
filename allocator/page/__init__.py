"""The status page: what the allocator knows, for people with a browser and for scripts that ask for JSON.

Read-only. `strips`, `claims`, `finding`, `queries`, `words` and `access` are pure; `views` puts them together;
`handlers` and `live` are HTTP. What takes long is done in slices (`allocator.slices`), so that no decision waits for a
reader.
"""
