"""The tokenizer: encoding lines by their distinct pre-tokens, growing the vocabulary, receipts."""
