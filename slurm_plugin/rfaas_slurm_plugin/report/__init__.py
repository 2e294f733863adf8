"""What was or could be harvested: records of the past, their gaps, the policy simulated on them."""
