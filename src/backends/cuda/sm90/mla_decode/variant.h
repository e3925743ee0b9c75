namespace trireme::cuda { extern int g_mla_variant; }
