"""Scored runs become tables, figures and one page; nothing here opens a model or a data set."""
