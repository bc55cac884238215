"""Search over a catalogue: the trie of its items, beam search, exact scores, generation."""
