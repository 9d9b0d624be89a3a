"""What an ingress knows of the replicas: links, placement, resumption, scaling."""
