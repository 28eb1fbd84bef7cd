"""The compiler's front: a formula becomes a graph, its derivatives, and a schedule of walks.

expression   nodes of the graph; how arithmetic and NumPy's functions make them
primitives   what formulas are written in, beyond arithmetic and NumPy
trace        a formula is run once on symbols
derive       derivatives of a graph, another graph
lower        composite primitives are taken apart
schedule     a graph is split into walks along the row
evaluate     a graph on arrays or tensors, as it stands
"""
