"""Looks into traced functions."""


def count_ops(function, op_type):
    """How often a type of operation runs in one call of a concrete function.

    Those of a function that it calls count at each of the calls.
    """
    graph = function.graph.as_graph_def()
    bodies = {f.signature.name: f.node_def for f in graph.library.function}

    def count(nodes):
        total = 0
        for node in nodes:
            total += node.op == op_type
            for value in node.attr.values():
                for called in (value.func, *value.list.func):
                    if called.name:
                        total += count(bodies[called.name])
        return total

    return count(graph.node)
