"""What several test rings share; `from support.waiting import wait_until`. Must not import rfaas at the top."""
