"""Many boards, bundles and settings measured by one plan: side by side, resumed, told as a page."""
