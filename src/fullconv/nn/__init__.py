"""Blocks that know torch but no trunk: upsampling, cropping, conversion of classifiers, tracing of geometry."""
