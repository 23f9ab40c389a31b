"""Teaching a model to classify or score texts, by transformers' Trainer."""
