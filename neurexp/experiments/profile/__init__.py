"""Profiles: how do activations depend on a property of the token?"""
