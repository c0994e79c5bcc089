// Included first when the kernels are compiled with -DBUG='merv_seeded_bug()': the fault is then chosen at run time (tests/test_bugs.cpp).
int merv_seeded_bug();
