"""Authors and titles of the papers that parts come from, by arXiv number."""

# Author fields are BibTeX; "and others" stands for all but the first. The year follows from the number.
PAPERS = {
    "1506.02438": (
        "Schulman and others",
        "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
    ),
    "1602.01783": ("Mnih and others", "Asynchronous Methods for Deep Reinforcement Learning"),
    "1707.06347": ("Schulman and others", "Proximal Policy Optimization Algorithms"),
    "1802.09477": ("Fujimoto and others", "Addressing Function Approximation Error in Actor-Critic Methods"),
    "1806.04613": ("Imani and White", "Improving Regression Performance with Distributional Losses"),
    "1909.08593": ("Ziegler and others", "Fine-Tuning Language Models from Human Preferences"),
    "1912.09729": ("Ye and others", "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning"),
    "2005.12729": (
        "Engstrom and others",
        "Implementation Matters in Deep Policy Gradients: A Case Study on PPO and TRPO",
    ),
    "2107.03374": ("Chen and others", "Evaluating Large Language Models Trained on Code"),
    "2310.10505": (
        "Li and others",
        "ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for Aligning Large Language Models",
    ),
    "2401.16025": ("Xie and others", "Simple Policy Optimization"),
    "2402.03300": (
        "Shao and others",
        "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    ),
    "2402.14740": (
        "Ahmadian and others",
        "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
    ),
    "2403.03950": (
        "Farebrother and others",
        "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL",
    ),
    "2404.16767": ("Gao and others", "REBEL: Reinforcement Learning via Regressing Relative Rewards"),
    "2410.01679": ("Kazemnejad and others", "VinePPO: Refining Credit Assignment in RL Training of LLMs"),
    "2501.03262": ("Hu and others", "REINFORCE++"),
    "2503.01491": (
        "Yuan and others",
        "What's Behind PPO's Collapse in Long-CoT? Value Optimization Holds the Secret",
    ),
    "2503.14286": (
        "Le Roux and others",
        "Tapered Off-Policy REINFORCE: Stable and efficient reinforcement learning for LLMs",
    ),
    "2503.14476": ("Yu and others", "DAPO: An Open-Source LLM Reinforcement Learning System at Scale"),
    "2503.20783": ("Liu and others", "Understanding R1-Zero-Like Training: A Critical Perspective"),
    "2504.02546": ("Chu and others", "GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning"),
    "2504.05118": (
        "Yue and others",
        "VAPO: Efficient and Reliable Reinforcement Learning for Advanced Reasoning Tasks",
    ),
    "2504.14945": ("Yan and others", "Learning to Reason under Off-Policy Guidance"),
    "2505.15311": (
        "Yuan and others",
        "Trajectory Bellman Residual Minimization: A Simple Value-Based Method for LLM Reasoning",
    ),
    "2505.20686": (
        "Brantley and others",
        "Accelerating RL for LLM Reasoning with Optimal Advantage Regression",
    ),
    "2505.22617": (
        "Cui and others",
        "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
    ),
    "2505.23585": ("Hao and others", "On-Policy RL with Optimal Reward Baseline"),
    "2506.01939": (
        "Wang and others",
        "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM Reasoning",
    ),
    "2506.13585": (
        "MiniMax and others",
        "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
    ),
    "2506.20520": (
        "Arnal and others",
        "Asymmetric REINFORCE for off-Policy Reinforcement Learning: Balancing positive and negative rewards",
    ),
    "2507.18071": ("Zheng and others", "Group Sequence Policy Optimization"),
    "2507.20673": ("Zhao and others", "Geometric-Mean Policy Optimization"),
    "2508.07629": (
        "Su and others",
        "Klear-Reasoner: Advancing Reasoning Capability via Gradient-Preserving Clipping Policy Optimization",
    ),
    "2508.08221": ("Liu and others", "Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning"),
    "2508.10751": (
        "Chen and others",
        "Pass@k Training for Adaptively Balancing Exploration and Exploitation of Large Reasoning Models",
    ),
    "2509.01720": (
        "Papoudakis and others",
        "Succeed or Learn Slowly: Sample Efficient Off-Policy Reinforcement Learning for Mobile App Control",
    ),
    "2509.13232": ("Xu and Ding", "Single-stream Policy Optimization"),
    "2509.20712": (
        "Su and others",
        "CE-GPPO: Coordinating Entropy via Gradient-Preserving Clipping Policy Optimization in Reinforcement Learning",
    ),
    "2509.22611": ("Wu and others", "Quantile Advantage Estimation for Entropy-Safe Reasoning"),
    "2510.01656": ("Liu and others", "Asymmetric Proximal Policy Optimization: mini-critics boost LLM reasoning"),
    "2510.13786": ("Khatri and others", "The Art of Scaling Reinforcement Learning Compute for LLMs"),
    "2510.18855": (
        "Ling Team and others",
        "Every Step Evolves: Scaling Reinforcement Learning for Trillion-Scale Thinking Model",
    ),
    "2511.04439": ("Garg and Venkatesh", "CoRPO: Adding a Correctness Bias to GRPO Improves Generalization"),
    "2511.20347": ("Gao and others", "Soft Adaptive Policy Optimization"),
    "2512.05591": (
        "Su and others",
        "Entropy Ratio Clipping as a Soft Global Constraint for Stable Reinforcement Learning",
    ),
    "2601.03320": (
        "Luo and others",
        "Ratio-Variance Regularized Policy Optimization for Efficient LLM Fine-tuning",
    ),
    "2601.22718": (
        "Lei and Cheng and Tao",
        "A Step Back: Prefix Importance Ratio Stabilizes Policy Optimization",
    ),
    "2602.04879": ("Qi and others", "Rethinking the Trust Region in LLM Reinforcement Learning"),
    "2602.10693": (
        "Shen and others",
        "VESPO: Variational Sequence-Level Soft Policy Optimization for Stable Off-Policy LLM Training",
    ),
    "2604.19485": (
        "Pan and others",
        "EVPO: Explained Variance Policy Optimization for Adaptive Critic Utilization in LLM Post-Training",
    ),
    "2605.26784": ("Luo and others", "Ratio-Variance Regularized Policy Optimization"),
    "2607.07508": (
        "Hou and Li and Tang and Dong",
        "Single-Rollout Asynchronous Optimization for Agentic Reinforcement Learning",
    ),
    "2608.16739": (
        "Venkatraman and Dinot and Aitchison",
        "Le Critique: Privileged Value Functions for LLM Reinforcement Learning",
    ),
    "2609.36802": ("Zhou and others", "EasyPPO: Stabilizing the Critic Is Key"),
}
