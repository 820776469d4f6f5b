"""What a student is trained for: a sum of terms, with the parts that are trained beside it."""
