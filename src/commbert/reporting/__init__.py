"""The report: one context of measured values, rendered as Markdown, HTML and JSON, and the model card."""
