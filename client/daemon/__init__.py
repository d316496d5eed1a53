"""The program that runs at a site: it takes questions, finds their plan, and answers while the operator watches."""
