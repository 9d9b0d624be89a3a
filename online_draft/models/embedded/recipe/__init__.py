"""How the embedded target was made: corpus, tokenizer, training, export, quality."""
