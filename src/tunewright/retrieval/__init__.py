"""Texts are found by meaning and by words: vectors, an index that survives kills, and its search.

embed -> vectors        index -> folder        search folder -> hits        judge -> nDCG, MRR
"""
