/* A shared library that is no plugin. */
int a_function_of_no_interest(void);

__attribute__((visibility("default"))) int a_function_of_no_interest(void)
{
    return 0;
}
