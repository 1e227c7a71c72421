"""Bulk jobs: whole data sets through the same engines, with Ray Data.

Rows are read and hashed, planned into length-sorted batches, made by workers that each hold an engine, and kept by the one
process that started the job. What a row becomes depends on its content and the job's settings alone, so a job that was
stopped anywhere goes on where it was and ends with the same bytes.
"""
