"""One file per process. A role is a set of lanes: loops that claim due work at their own pace."""
