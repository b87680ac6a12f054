"""The suites of ``expectations/``, loaded and run so that nothing can go missing unseen.

The only importer of great_expectations; imports neither duckdb nor the warehouse: frames come in, outcomes go out.
Great Expectations fails open (an entry that it does not know is dropped with a log line; an empty suite, an empty
frame and a column of NULLs succeed; an expectation added twice is kept once), so the JSON is read by :mod:`.loader`,
held against the rules that :mod:`.pins` demands, and what came back is counted by :mod:`.run`.
"""
