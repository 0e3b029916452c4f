"""The pages about the product, and the script that writes those which follow from the code."""
