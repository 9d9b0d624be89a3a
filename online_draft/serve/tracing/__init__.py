"""Spans of requests: HTTP and generation in the ingress; queue, prefill and decode in the replica."""
