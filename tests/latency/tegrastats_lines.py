"""Lines of tegrastats, each with where it comes from.

RECORDED lines stand as their owners published them; ELIDED likewise, but cut short there by "..."; WRITTEN ones were
composed for these tests from documentation.
"""

from __future__ import annotations

RECORDED = {
    # Jetson AGX Orin 64 GB, MAXN, JetPack 5.1 by the wheels named there, 2023-04-24. Published in catid/blog2022,
    # content/posts/orin_opt.md (`sudo tegrastats` after `jetson_clocks --show`, which ends in "NV Power Mode: MAXN").
    "orin r35 idle": (
        "04-24-2023 00:01:24 RAM 1282/62795MB (lfb 15152x4MB) SWAP 0/31398MB (cached 0MB) CPU [0%@729,0%@729,0%@729,"
        "0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 0%@2133 GR3D_FREQ 0%@0 "
        "GR3D2_FREQ 0%@0 VIC_FREQ 729 APE 174 CV0@-256C CPU@42.593C Tboard@32C SOC2@39.343C Tdiode@33.25C SOC0@39.375C "
        "CV1@-256C GPU@-256C tj@42.593C SOC1@40.468C CV2@-256C VDD_GPU_SOC 2399mW/2399mW VDD_CPU_CV 400mW/400mW "
        "VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
    ),
    # Jetson AGX Orin 64 GB, L4T R36.4.4 (nvidia-l4t-core 36.4.4-20250616085344, kernel 5.15.148), 2026-05-09.
    # Published in lesomnus/tegra-exporter, the test of its package stats.
    "orin r36 busy": (
        "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) CPU [14%@2188,5%@2112,"
        "8%@2035,14%@2201,46%@1267,47%@1267,2%@1267,10%@1267,4%@1036,5%@1036,6%@1036,10%@1036] EMC_FREQ 3%@2133 "
        "GR3D_FREQ 0%@[0,0] NVENC 79%@166 NVDEC off NVJPG off NVJPG1 off VIC 36%@115 OFA off NVDLA0 off NVDLA1 off "
        "PVA0_FREQ off APE 174 cpu@52.562C soc2@48.437C soc0@49.093C tj@52.562C soc1@49.656C VDD_GPU_SOC 2412mW/2412mW "
        "VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4707mW/4707mW"
    ),
    "orin r36 later": (
        "05-09-2026 18:42:07 RAM 18202/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) CPU [16%@1949,6%@1761,"
        "4%@1222,4%@2201,4%@1036,33%@1036,0%@1036,40%@1036,3%@1190,46%@1190,6%@1190,2%@1190] EMC_FREQ 3%@2133 "
        "GR3D_FREQ 0%@[0,0] NVENC 78%@166 NVDEC off NVJPG off NVJPG1 off VIC 32%@115 OFA off NVDLA0 off NVDLA1 off "
        "PVA0_FREQ off APE 174 cpu@52.343C soc2@48.343C soc0@49.062C tj@52.343C soc1@49.531C VDD_GPU_SOC 2412mW/2412mW "
        "VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4607mW/4657mW"
    ),
}
ELIDED = {
    # Jetson AGX Orin, JetPack 7.2 (L4T R39.2), 2026-07-25. Published in rbonghi/jetson_stats, pull request 894.
    "orin r39": (
        "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201,...] EMC_FREQ 3%@3199 "
        "GR3D_FREQ 0%@[1300,1300] NVENC0 off NVDEC0 off ... APE 174 cpu@52.968C/52.968C ..."
    ),
    # Jetson Orin NX 16 GB, under load, 2023-02. Published in rbonghi/jetson_stats, issue 362.
    "orin nx two clusters": "GR3D_FREQ 99%@917 GR3D2_FREQ 99%@0",
}
WRITTEN = {
    # By hand from the NVIDIA Jetson Linux Developer Guide r36 (tegrastats): AGX Orin under full GPU load at MAXN.
    "orin full load": (
        "RAM 9000/62841MB (lfb 466x4MB) SWAP 0/31420MB (cached 0MB) CPU [10%@2201,off,off] EMC_FREQ 40%@3199 "
        "GR3D_FREQ 99%@[1300,1300] APE 174 tj@81.5C VDD_GPU_SOC 25000mW/24000mW VDD_CPU_CV 4000mW/4000mW "
        "VIN_SYS_5V0 6000mW/6000mW VDDQ_VDD2_1V8AO 2000mW/2000mW"
    ),
    # By hand from the same guide: the form without a percentage.
    "thor form": "RAM 1/2MB GR3D_FREQ @[1000,1000,1000]",
}
