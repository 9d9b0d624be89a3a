"""Adapters after a promotion: each is gated on the new base, kept, dropped or trained anew."""
