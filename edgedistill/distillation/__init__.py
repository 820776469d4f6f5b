"""The distillation core."""
