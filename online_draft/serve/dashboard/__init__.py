"""The page at `/admin`: its files, its sessions and its live events. Its data are the admin API's."""
