"""Asking a model: what stands at [MASK], how alike two words are, which option fits, which class a text has.

``models.load_model`` gives the model that the rest is asked of: ``filling.fill_mask``, ``vectors.similarity``,
``vectors.vectors_of`` and ``save_vectors``, ``neighbours.space_of`` and its ``nearest``, ``searching.search``;
``classifying.load_classifier`` and ``predict`` for folders with a classifier head.
"""
