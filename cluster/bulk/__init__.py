"""Bulk jobs: whole data sets through the same engines, with Ray Data.

The process that starts a job reads and hashes its rows, plans batches of similar length, and stores what workers return.
Each worker holds an engine. What a row becomes depends only on its content and the job's settings, so a job that was
interrupted anywhere resumes and ends with the same bytes.
"""
