"""Drawing of articulated creatures on scenes, with exact ground truth."""
