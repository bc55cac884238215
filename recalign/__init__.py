"""recalign: aligns FLAN-T5 with recommendation knowledge, on JAX.

Two planes, one direction. The text plane (`domains`, `prompts`, `samples`) turns interactions into
SeqIO samples; the tensor plane (`engine`) turns samples into a trained model and ranked items, and
never imports TensorFlow; `evaluation` turns ranked items into metrics, with numpy alone.
"""

__version__ = "0.1.0"
