"""Looks into traced functions."""

import gc

from tensorflow.python.framework import func_graph, ops


def live():
    """Returns how many graphs and custom gradients this process holds."""
    gc.collect()
    graphs = [
        o for o in gc.get_objects() if isinstance(o, func_graph.FuncGraph)
    ]
    names = ops.gradient_registry.list()
    return len(graphs), sum("CustomGradient" in name for name in names)


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
