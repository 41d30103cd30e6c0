"""How results are shown: numbers with units, tables, progress."""
